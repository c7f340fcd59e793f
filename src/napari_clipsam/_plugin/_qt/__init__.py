"""What needs Qt: the docks, their parts, and answers that arrive on Qt's main thread."""
