"""Stages, their manifests and files, worker processes, and reading of finished runs."""
