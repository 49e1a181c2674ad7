"""The commands of the command line: of each its help, its arguments, and the function that starts it.

A command is a file with a function ``add_arguments(parser)``, and a line in `cli.parser.COMMANDS`. It imports what it
starts only then: a wrong argument is reported at once.
"""
