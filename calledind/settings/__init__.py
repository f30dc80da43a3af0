"""What an operator may change: a TOML file in, frozen settings out, or every error at once with its path."""
