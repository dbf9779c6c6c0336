"""Looks at one Report: text for a terminal, a page for a browser. Both say what `wording` says; neither concludes."""
