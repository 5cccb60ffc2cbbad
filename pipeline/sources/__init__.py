"""dCMMS's databases, and the extraction of the views from them."""
