"""The command `srlm`: its subcommands, their help, shell completion, and hints for mistyped options."""
