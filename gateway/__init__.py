"""The dCMMS endpoints: features over HTTP as dCMMS's clients know them."""
