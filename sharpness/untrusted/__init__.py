"""Readers of files of unknown origin: each expects a format, bounds its memory, and executes nothing."""
