"""Building blocks of HTML and SVG reports that several stages share."""
