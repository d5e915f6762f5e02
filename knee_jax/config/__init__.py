"""Configs: the schema, the checks, and the way from a config file to typed parts."""
