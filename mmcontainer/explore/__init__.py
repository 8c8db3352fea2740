"""The local web page that shows what a detector finds, and where it looks."""
