"""A plugin for baker."""
