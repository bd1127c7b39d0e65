"""Devices elsewhere: over SSH and on Android phones."""
