"""What the user did: objects, undo, a journal that survives a crash, files for other programs."""
