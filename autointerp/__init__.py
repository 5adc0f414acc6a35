"""autointerp: labels for the latents of sparse autoencoders, and how far to trust them."""
