"""The trainer: plays a build, decides nothing about data."""
