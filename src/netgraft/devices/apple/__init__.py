"""Networks for Apple's Core ML."""
