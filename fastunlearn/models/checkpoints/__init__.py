"""Files of other packages, read into models and written from them."""
