"""report.html: what a run found as one page, with nothing to load: `page.write(path, title, sections)`."""
