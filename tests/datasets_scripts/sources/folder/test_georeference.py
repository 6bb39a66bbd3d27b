"""Invariant: positions come out as they were put in, whatever the coordinate system of the tile; what is broken gives
no position and says why; pixels of any depth become 8-bit RGB by the documented stretch and no other way."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.folder.georeference import (
    Georeference,
    exif_georeference,
    is_geotiff,
    is_plain_tiff,
    read_georeference,
    read_tile,
    stretch,
)
from pemoe.datasets_scripts.sources.folder.reader import FolderReader

rasterio = pytest.importorskip("rasterio", reason="GeoTIFF needs the extra geo")
GPS = ExifTags.GPS

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of affine, inside rasterio


def photo(latitude: object, longitude: object, refs: tuple = ("N", "E"), **other: object) -> Image.Image:
    gps = {GPS.GPSLatitudeRef: refs[0], GPS.GPSLatitude: latitude, GPS.GPSLongitudeRef: refs[1]}
    gps |= {GPS.GPSLongitude: longitude, GPS.GPSAltitude: 812.5}
    exif = Image.Exif()
    exif[ExifTags.IFD.GPSInfo] = {tag: value for tag, value in gps.items() if value is not None}
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG", exif=exif)
    return Image.open(buffer)


def tile(pixels: np.ndarray, crs: str | None, west: float, north: float, step: float, **options: object) -> bytes:
    """A GeoTIFF with square pixels of `step` units."""
    bands, height, width = pixels.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    transform = rasterio.transform.from_origin(west, north, step, step) if crs else None
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=crs, transform=transform, **shape, **options) as raster:
            raster.write(pixels)
        return memory.read()


def noise(bands: int, dtype: str, top: int) -> np.ndarray:
    return np.random.default_rng(bands).integers(0, top, (bands, 20, 30)).astype(dtype)


@pytest.mark.parametrize("refs", ["NE", "NW", "SE", "SW"])
def test_gps_tags_give_signed_degrees(refs):
    found = exif_georeference(photo((40.0, 6.0, 36.0), (88.0, 12.0, 18.0), tuple(refs)))
    signs = (1 if refs[0] == "N" else -1, 1 if refs[1] == "E" else -1)
    assert found[:2] == (pytest.approx(signs[0] * 40.11), pytest.approx(signs[1] * (88 + 12 / 60 + 18 / 3600)))
    assert found.reason is None


def test_decimal_degrees_in_the_first_rational_are_read():
    assert exif_georeference(photo((40.25, 0.0, 0.0), (8.5, 0.0, 0.0)))[:2] == (40.25, 8.5)


def rational(over: int, under: int) -> TiffImagePlugin.IFDRational:
    return TiffImagePlugin.IFDRational(over, under)


@pytest.mark.parametrize("refs", [("s", "w"), ("S\0", " W"), (b"S", b"w\0")])
def test_minutes_as_fractions_and_letters_in_any_case_are_read(refs):
    minutes = (
        (rational(33, 1), rational(305, 10), rational(0, 1)),
        (rational(70, 1), rational(4050, 100), rational(0, 7)),
    )
    position = exif_georeference(photo(*minutes, refs))[:2]
    assert position == (pytest.approx(-(33 + 30.5 / 60)), pytest.approx(-70.675))


@pytest.mark.parametrize("broken", range(3))
def test_a_rational_over_zero_in_a_file_gives_no_position(broken):
    angle = [rational(40, 1), rational(6, 1), rational(36, 1)]
    for under_zero in (rational(0, 0), rational(5, 0)):
        angle[broken] = under_zero
        found = exif_georeference(photo(tuple(angle), (8.0, 5.0, 3.0)))
        assert found[:2] == (None, None) and "GPSLatitude" in found.reason


BROKEN = {
    "no hemisphere": (photo((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), (None, "E")), "GPSLatitudeRef is None, not N or S"),
    "wrong letter": (photo((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), ("N", "N")), "GPSLongitudeRef is 'N', not E or W"),
    "two parts": (photo((1.0, 2.0), (1.0, 2.0, 3.0)), "GPSLatitude is not degrees, minutes and seconds"),
    "swapped": (photo((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), ("E", "N")), "GPSLatitudeRef is 'E', not N or S"),
    "swapped angles": (photo((113.0, 2.0, 3.0), (53.0, 2.0, 3.0)), "GPSLatitude is 113 2 3, out of range"),
    "only half": (photo((1.0, 2.0, 3.0), None), "GPSLongitude is not degrees, minutes and seconds"),
    "out of range": (photo((95.0, 2.0, 3.0), (1.0, 2.0, 3.0)), "GPSLatitude is 95 2 3, out of range"),
    "minutes": (photo((5.0, 72.0, 3.0), (1.0, 2.0, 3.0)), "GPSLatitude is 5 72 3, out of range"),
    "no fix": (photo((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), "the GPS position is (0, 0), which stands for no fix"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_gps_tags_give_no_position_and_the_reason(name):
    image, reason = BROKEN[name]
    assert exif_georeference(image) == Georeference(reason=reason)


def test_a_rational_divided_by_zero_gives_no_position():
    image = photo((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    image.getexif().get_ifd(ExifTags.IFD.GPSInfo)[GPS.GPSLatitude] = (math.nan, 2.0, 3.0)
    assert "out of range" in exif_georeference(image).reason


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of what is cut
def test_exif_data_cut_anywhere_never_raise():
    whole = photo((40.0, 6.0, 36.0), (88.0, 12.0, 18.0)).info["exif"]
    for end in range(6, len(whole), 3):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4)).save(buffer, "JPEG", exif=whole[:end])
        found = read_georeference(buffer.getvalue())
        assert found.latitude_deg is None or found.latitude_deg == pytest.approx(40.11)


def test_images_without_position_have_no_reason_either():
    buffer = io.BytesIO()
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        Image.new("RGB", (4, 4)).save(buffer := io.BytesIO(), kind)
        assert read_georeference(buffer.getvalue()) == Georeference()
    with pytest.raises(DataError, match=r"^a.jpg cannot be read"):
        read_georeference(b"hello", "a.jpg")


def test_a_tile_in_degrees_gives_its_centre():
    found = read_georeference(tile(noise(3, "uint8", 255), "EPSG:4326", -88.25, 40.5, 0.001))
    assert found[:2] == (pytest.approx(40.49), pytest.approx(-88.235))
    assert found.reason is None


def test_a_web_mercator_tile_agrees_with_the_formula_of_its_projection():
    radius, west, north = 6_378_137.0, -9_822_000.0, 4_883_000.0
    found = read_georeference(tile(noise(1, "uint8", 255), "EPSG:3857", west, north, 10.0))
    easting, northing = west + 150, north - 100
    latitude = math.degrees(2 * math.atan(math.exp(northing / radius)) - math.pi / 2)
    assert found[:2] == (pytest.approx(latitude, abs=1e-9), pytest.approx(math.degrees(easting / radius), abs=1e-9))


@pytest.mark.parametrize(("zone", "side"), [(32616, 1), (32716, -1)])
def test_an_utm_tile_agrees_with_the_length_of_the_meridian_on_both_sides_of_the_equator(zone, side):
    """On the central meridian (87 W, easting 500 km) the northing is 0.9996 times the way from the equator."""
    northing = 4_440_000.0 if side == 1 else 10_000_000 - 4_440_000.0
    pixels = np.zeros((1, 2, 2), dtype=np.uint8)
    found = read_georeference(tile(pixels, f"EPSG:{zone}", 499_999.5, northing + 0.5, 0.5))
    assert found.longitude_deg == pytest.approx(-87, abs=1e-9)
    assert 0.9996 * meridian_m(abs(found.latitude_deg)) == pytest.approx(4_440_000.0, abs=0.01)
    assert math.copysign(1, found.latitude_deg) == side


def meridian_m(latitude_deg: float) -> float:
    """Length of the WGS84 meridian from the equator, by summing a (1 - e2) / (1 - e2 sin2)^1.5 over the latitude."""
    a, e2 = 6_378_137.0, 0.0066943799901413165
    edges = np.linspace(0, math.radians(latitude_deg), 200_001)
    middles = (edges[1:] + edges[:-1]) / 2
    return float((a * (1 - e2) / (1 - e2 * np.sin(middles) ** 2) ** 1.5).sum() * (edges[1] - edges[0]))


def test_a_turned_tile_gives_its_centre():
    transform = rasterio.Affine(0.0, 0.001, 10.0, 0.001, 0.0, 50.0)  # columns go north, rows go east
    with rasterio.MemoryFile() as memory:
        shape = {"count": 1, "height": 2, "width": 4, "dtype": "uint8"}
        with memory.open(driver="GTiff", crs="EPSG:4326", transform=transform, **shape) as raster:
            raster.write(np.zeros((1, 2, 4), dtype=np.uint8))
        found = read_georeference(memory.read())
    assert found[:2] == (pytest.approx(50.002), pytest.approx(10.001))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_tiles_without_or_with_nonsense_georeference_say_why():
    pixels = noise(3, "uint8", 255)
    assert not is_geotiff(tile(pixels, None, 0, 0, 1))
    assert "not on the earth" in read_georeference(tile(pixels, "EPSG:4326", 395_000, 4_440_000, 1)).reason
    transform_only = rasterio.transform.from_origin(1, 2, 0.1, 0.1)
    with rasterio.MemoryFile() as memory:
        shape = {"count": 1, "height": 2, "width": 4, "dtype": "uint8"}
        with memory.open(driver="GTiff", transform=transform_only, **shape) as raster:
            raster.write(np.zeros((1, 2, 4), dtype=np.uint8))
        assert "lacks its coordinate system" in read_georeference(memory.read()).reason


def test_eight_bit_bands_are_not_stretched_and_plain_tiffs_are_left_alone():
    pixels = noise(3, "uint8", 60)
    rgb = tile(pixels, "EPSG:4326", 8, 50, 0.001, photometric="RGB", compress="deflate")
    assert is_plain_tiff(rgb)
    rgbn = tile(noise(4, "uint8", 60), "EPSG:4326", 8, 50, 0.001)
    assert not is_plain_tiff(rgbn)
    shown = np.asarray(Image.open(io.BytesIO(read_tile(rgbn))))
    assert np.array_equal(np.moveaxis(shown, 2, 0), noise(4, "uint8", 60)[:3])


def test_sixteen_bit_rgbn_follows_the_documented_stretch():
    pixels = noise(4, "uint16", 3000)
    data = tile(pixels, "EPSG:32616", 395_000, 4_440_000, 0.5)
    assert not is_plain_tiff(data)
    image = Image.open(io.BytesIO(read_tile(data)))
    low, high = np.percentile(pixels[:3], (2, 98))
    expected = [
        [[min(max(255 * (v - low) / (high - low), 0), 255) for v in row] for row in band] for band in pixels[:3]
    ]
    assert image.mode == "RGB" and image.size == (30, 20)
    assert np.array_equal(np.moveaxis(np.asarray(image), 2, 0), np.floor(expected).astype(np.uint8))


@pytest.mark.filterwarnings("error::rasterio.errors.NotGeoreferencedWarning")
def test_a_plain_tiff_of_sixteen_bits_becomes_grey_rgb():
    values = noise(1, "uint16", 3000)
    Image.fromarray(values[0]).save(buffer := io.BytesIO(), "TIFF")
    assert not is_geotiff(buffer.getvalue()) and not is_plain_tiff(buffer.getvalue())
    shown = np.asarray(Image.open(io.BytesIO(read_tile(buffer.getvalue()))))
    assert all(np.array_equal(shown[..., band], stretch(values)[0]) for band in range(3))


def test_bands_marked_blue_green_red_are_put_in_order():
    pixels = noise(4, "uint16", 3000)
    with rasterio.MemoryFile() as memory:
        shape = {"count": 4, "height": 20, "width": 30, "dtype": "uint16", "crs": "EPSG:4326"}
        with memory.open(driver="GTiff", transform=rasterio.transform.from_origin(8, 50, 1, 1), **shape) as raster:
            raster.write(pixels)
            kind = rasterio.enums.ColorInterp
            raster.colorinterp = (kind.blue, kind.green, kind.red, kind.undefined)
        shown = np.asarray(Image.open(io.BytesIO(read_tile(memory.read()))))
    assert np.array_equal(np.moveaxis(shown, 2, 0), stretch(pixels[[2, 1, 0]]))


def test_invalid_pixels_are_black_and_do_not_move_the_stretch():
    values = np.linspace(1, 2, 600, dtype=np.float32).reshape(1, 20, 30)
    clean = stretch(values)
    values[0, 0, 0], values[0, 0, 1] = np.nan, -9999
    shown = np.asarray(Image.open(io.BytesIO(read_tile(tile(values, "EPSG:4326", 8, 50, 1, nodata=-9999)))))
    assert shown[0, :2].max() == 0
    assert np.abs(shown[1:, :, 0].astype(int) - clean[0, 1:]).max() <= 1
    assert stretch(np.full((1, 2, 2), 7, dtype=np.uint16)).max() == 0
    assert stretch(np.full((1, 2, 2), np.nan)).max() == 0


def test_broken_tiles_are_reported_in_one_line():
    data = tile(noise(4, "uint16", 3000), "EPSG:4326", 8, 50, 1)
    for broken, message in ((b"II*\0" + bytes(64), "a.tif is not a TIFF"), (data[:900], "a.tif cannot be decoded")):
        with pytest.raises(DataError, match=f"^{message}[^\n]*$"):
            read_tile(broken, "a.tif")


def test_a_folder_of_tiles_has_positions_and_pictures(tmp_path):
    (tmp_path / "a.tif").write_bytes(tile(noise(4, "uint16", 3000), "EPSG:32616", 395_000, 4_440_000, 0.5))
    (tmp_path / "b.tif").write_bytes(tile(noise(3, "uint8", 255), "EPSG:4326", 8, 50, 0.001, photometric="RGB"))
    reader = FolderReader(tmp_path, platform="satellite")
    first, second = reader.rows("test", reader.place_ids("test"))
    assert first["latitude_deg"] == pytest.approx(40.1037, abs=1e-4) and first["image"]["bytes"][1:4] == b"PNG"
    assert (second["latitude_deg"], second["longitude_deg"]) == (pytest.approx(49.99), pytest.approx(8.015))
    assert second["image"]["bytes"] == (tmp_path / "b.tif").read_bytes()


def test_without_the_extra_one_line_names_it_and_photos_still_work(tmp_path):
    (tmp_path / "a.tif").write_bytes(tile(noise(3, "uint8", 255), "EPSG:4326", 8, 50, 0.001))
    script = f"""
import io, sys
sys.modules["rasterio"] = None  # as where it is not installed
from PIL import Image
from pemoe.datasets_scripts.sources.folder.georeference import read_georeference
from pemoe.datasets_scripts.schema import DataError
Image.new("RGB", (4, 4)).save(buffer := io.BytesIO(), "JPEG")
assert read_georeference(buffer.getvalue()).reason is None
try:
    read_georeference(open({str(tmp_path / "a.tif")!r}, "rb").read(), "a.tif")
except DataError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "a.tif is a GeoTIFF or a TIFF beyond 8-bit RGB; run: pip install rasterio\n"
