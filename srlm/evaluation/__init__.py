"""Evaluation of each model M_t: judge metrics, head-to-head matches, text statistics and benchmarks, with intervals."""
