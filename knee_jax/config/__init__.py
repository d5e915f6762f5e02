"""Configs: schema, checks, and the conversion from a config file to typed parts."""
