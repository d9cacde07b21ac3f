"""What makes the site of docs/: links out of it, the page of columns, its pictures."""
