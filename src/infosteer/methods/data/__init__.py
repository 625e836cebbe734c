"""Methods that change the rows a training sees."""
