"""The networks: the NAFNet family, the modules that replace its parts, loading and counting."""
