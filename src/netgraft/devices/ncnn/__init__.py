"""Networks as ncnn's files, and ncnn, which runs them."""
