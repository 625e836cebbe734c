"""Methods that change which parameters learn, and how."""
