"""Views of a report (Markdown, CSV, HTML, console) and the comparison of two."""
