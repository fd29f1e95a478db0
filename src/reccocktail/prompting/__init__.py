"""From titles to tokens: the words around the titles, truncation, packing and padding."""
