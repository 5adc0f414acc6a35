"""Windows to explanations: one file per explainer, a registry by name."""
