"""The bottom floor: errors, files, run directories, progress, distances, pages. Imports nothing of ours, no torch."""
