"""The network under study: text to tokens, language model to activations, dictionary to latents."""
