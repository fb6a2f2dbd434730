"""The passes that come with baker: one file, or one package, each. Installed as ``baker.passes``."""
