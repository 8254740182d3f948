"""The backends that come with Argosy, a module each runtime."""
