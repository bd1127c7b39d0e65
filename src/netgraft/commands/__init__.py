"""What the commands do: read the arguments, call the library, print what came out and where it is."""
