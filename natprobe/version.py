"""The version of this natprobe, which reports carry."""

VERSION = "0.1.0"
