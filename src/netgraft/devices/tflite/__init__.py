"""Networks as TFLite files, and LiteRT, which runs them."""
