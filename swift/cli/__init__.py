"""The `swift` command: its sub-commands, their help, and the launch of several processes."""
