"""The rendered campus: places drawn from one scene description as satellite, drone and ground images."""
