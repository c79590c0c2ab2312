"""An advice for people: its content in words, as a page, as plots and on a terminal."""
