"""Language models that explain and judge: one protocol, several backends, stored replies."""
