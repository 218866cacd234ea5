"""A saved model that answers over HTTP: the model that is held, the limits of what is asked, and the addresses."""
