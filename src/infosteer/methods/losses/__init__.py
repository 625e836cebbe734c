"""Methods that change what each token contributes to the loss."""
