"""Invariant: places get the position the file gives them, latitude and longitude never swapped, whichever format and
naming; files that could harm or contradict themselves are refused in one line."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.coordinates import (
    NamedPlace,
    count_covered,
    join_coordinates,
    read_coordinates,
    read_places,
)

KML = """<?xml version="1.0" encoding="UTF-8"?>
<kml xmlns="http://www.opengis.net/kml/2.2"><Document><name>universities</name>{placemarks}</Document></kml>"""
NAMES = """0000 Bibliothèque Saint-Jean, University of Alberta
0001 Clare Drake Arena

0155 George Street
0156 George Street
"""
ARENA = (53.5245, -113.5305)


def placemark(name: str, coordinates: str) -> str:
    return f"<Placemark><name>{name}</name><Point><coordinates>{coordinates}</coordinates></Point></Placemark>"


def write_kml(path: Path, *placemarks: str) -> Path:
    path.write_text(KML.format(placemarks="".join(placemarks)), encoding="utf-8")
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def fault(path: Path, names: Path | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_coordinates(path, names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_kml_gives_longitude_first_and_rows_get_latitude_first(tmp_path):
    path = write_kml(
        tmp_path / "a.kml", placemark("0001", "\n -113.5305,53.5245,668.0\n"), placemark("0002", "8.5,50.25")
    )
    assert read_coordinates(path) == {"0001": ARENA, "0002": (50.25, 8.5)}


def test_names_lead_to_ids_and_shared_or_unknown_ones_to_none(tmp_path, caplog):
    names = write(tmp_path / "new_name_list.txt", NAMES)
    placemarks = [
        placemark(" Clare  Drake\nArena", "-113.5305,53.5245"),
        placemark("BIBLIOTHÈQUE Saint-Jean, University of Alberta,", "-113.4,53.4,0"),
        placemark("George Street", "-71.4,41.8"),
        placemark("George Street", "-71.5,41.9"),
        placemark("0155 George Street", "-71.6,41.7"),
        placemark("Nowhere", "1,2"),
    ]
    folders = f"<Folder><Folder>{''.join(placemarks)}</Folder></Folder>"
    found = read_coordinates(write_kml(tmp_path / "a.kml", folders), names)
    assert found == {"0001": ARENA, "0000": (53.4, -113.4), "0155": (41.7, -71.6)}
    assert "3 of its names lead to no single place id, first 'George Street'" in caplog.text


def test_ids_are_their_own_names(tmp_path):
    names = write(tmp_path / "names.txt", NAMES)
    assert read_coordinates(write_kml(tmp_path / "a.kml", placemark("0156", "-71.5,41.9")), names) == {
        "0156": (41.9, -71.5)
    }


def test_kmz_paths_areas_and_other_namespaces(tmp_path):
    area = "<Placemark><name>x</name><Polygon><coordinates>1,2 3,4</coordinates></Polygon></Placemark>"
    text = KML.replace("http://www.opengis.net/kml/2.2", "http://earth.google.com/kml/2.1")
    with zipfile.ZipFile(tmp_path / "a.kmz", "w") as archive:
        archive.writestr("files/icon.png", b"")
        archive.writestr("doc.kml", text.format(placemarks=area + placemark("0001", "-113.5305,53.5245")))
    assert read_coordinates(tmp_path / "a.kmz") == {"0001": ARENA}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "Building;LAT;Lng\n0001;53.5245;-113.5305\n0002;;\n"),
        ("a.csv", "Building;LAT;Lng\n0001;53,5245;-113,5305\n"),
        ("a.tsv", "place_id\tlongitude\tlatitude\n0001\t-113,5305\t53,5245\n"),
        ("a.tsv", "place_id\tlongitude\tlatitude\n0001\t-113.5305\t53.5245\n"),
        ("a.jsonl", '{"id": "0001", "lat": 53.5245, "lon": -113.5305}\n'),
        ("a.json", '[{"place": "0001", "latitude_deg": 53.5245, "longitude_deg": "-113.5305"}]'),
    ],
)
def test_tables_under_their_many_spellings(tmp_path, name, text):
    assert read_coordinates(write(tmp_path / name, text)) == {"0001": ARENA}


def test_a_repeated_place_may_agree_but_not_differ(tmp_path):
    same = placemark("0001", "-113.5305,53.5245"), placemark("0001", "-113.530502,53.524501")
    assert read_coordinates(write_kml(tmp_path / "a.kml", *same)) == {"0001": ARENA}
    path = write_kml(tmp_path / "b.kml", same[0], placemark("0001", "-113.53,53.5245"))
    assert fault(path).startswith("b.kml placemark 2: place '0001' lies at (53.5245, -113.53), but before at (53.5245")


def feature(properties: str, position: str, kind: str = "Point", more: str = "") -> str:
    geometry = f'{{"type": "{kind}", "coordinates": {position}}}'
    return f'{{"type": "Feature", {more} "properties": {properties}, "geometry": {geometry}}}'


def test_geojson_gives_longitude_first_its_places_by_id_or_name_and_lines_none(tmp_path):
    features = [
        feature('{"Place_ID": "0001", "name": "Clare Drake Arena"}', "[-113.5305, 53.5245, 668]"),
        feature('{"name": "Hall"}', "[8.5, 50.25]"),
        feature("{}", "[-70.5, -33.25]", more='"id": 7,'),
        feature('{"name": "a road"}', "[[1, 2], [3, 4]]", kind="LineString"),
        '{"type": "Feature", "properties": {"name": "nowhere"}, "geometry": null}',
    ]
    text = f'{{"type": "FeatureCollection", "features": [{", ".join(features)}]}}'
    expected = {
        "0001": NamedPlace(ARENA, "Clare Drake Arena"),
        "Hall": NamedPlace((50.25, 8.5), "Hall"),
        "7": NamedPlace((-33.25, -70.5)),
    }
    for name in ("a.geojson", "a.json"):
        assert read_places(write(tmp_path / name, text)) == expected
    assert read_coordinates(tmp_path / "a.json") == {key: place.coordinates for key, place in expected.items()}


def test_tables_and_name_lists_give_places_their_names(tmp_path):
    table = write(tmp_path / "a.csv", "place_id,name,lat,lon\n0001,Old Arena,53.5245,-113.5305\n")
    assert read_places(table) == {"0001": NamedPlace(ARENA, "Old Arena")}
    names = write(tmp_path / "names.txt", NAMES)
    assert read_places(table, names) == {"0001": NamedPlace(ARENA, "Clare Drake Arena")}
    assert read_places(write(tmp_path / "b.csv", "name,lat,lon\nHall,1,2\n")) == {"Hall": NamedPlace((1, 2), "Hall")}


BOMB = '<!DOCTYPE k [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><kml><Placemark><name>&b;</name></Placemark></kml>'
STEAL = '<!DOCTYPE k [<!ENTITY a SYSTEM "file:///etc/hostname">]><kml><Placemark><name>&a;</name></Placemark></kml>'
OUTSIDE = '<!DOCTYPE k SYSTEM "http://127.0.0.1:9/k.dtd"><kml/>'
FILES = {  # fault -> file name, text, what the message says
    "bomb": ("a.kml", BOMB, "declares a document type or entities"),
    "external entity": ("a.kml", STEAL, "declares a document type or entities"),
    "external type": ("a.kml", OUTSIDE, "declares a document type or entities"),
    "not XML": ("a.kml", "<kml><Placemark>", "is not valid KML"),
    "empty": ("a.kml", KML.format(placemarks=""), "gives no coordinates of any place"),
    "no name": ("a.kml", KML.format(placemarks=placemark(" ", "1,2")), "a.kml placemark 1 has no name"),
    "decimal comma": ("a.kml", KML.format(placemarks=placemark("1", "x,2")), "placemark 1 has the coordinates 'x,2'"),
    "one number": ("a.kml", KML.format(placemarks=placemark("1", "12.5")), "placemark 1 has the coordinates '12.5'"),
    "swapped": ("a.kml", KML.format(placemarks=placemark("1", "53.5,-113.5")), "latitude -113.5 is beyond 90"),
    "csv swapped": ("a.csv", "id,lat,lon\n1,-113.5,53.5\n", "a.csv line 2: latitude -113.5 is beyond 90"),
    "csv without place": ("a.csv", "label,lat,lon\n1,1,2\n", "a.csv line 2 names no place"),
    "csv of images": ("a.csv", "file,lat,lon\na.jpg,1,2\n", "a table of images goes with --table"),
    "geojson cut": ("a.geojson", '{"type": "FeatureColl', "is not valid JSON"),
    "geojson of another kind": ("a.geojson", '{"type": "Topology"}', "is no GeoJSON FeatureCollection"),
    "geojson swapped": ("a.geojson", feature('{"place_id": "1"}', "[53.5, -113.5]"), "latitude -113.5 is beyond 90"),
    "geojson text": ("a.geojson", feature('{"place_id": "1"}', '["1", 2]'), "not [longitude, latitude]"),
    "geojson one number": ("a.geojson", feature('{"place_id": "1"}', "[1]"), "not [longitude, latitude]"),
    "geojson without place": ("a.geojson", feature("null", "[1, 2]"), "a.geojson feature 1 names no place"),
    "csv without position": ("a.csv", "id,y,x\n1,1,2\n", "gives no coordinates of any place"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_fault_in_the_file_is_reported_in_one_line(tmp_path, name):
    file_name, text, message = FILES[name]
    assert message in fault(write(tmp_path / file_name, text))


def test_absent_broken_and_oversized_archives_are_reported_in_one_line(tmp_path):
    assert "do not exist" in fault(tmp_path / "none.kml")
    with zipfile.ZipFile(tmp_path / "a.kmz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("doc.txt", "x")
    assert "without a .kml file" in fault(tmp_path / "a.kmz")
    with zipfile.ZipFile(tmp_path / "b.kmz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("doc.kml", bytes(65 * 2**20))
    assert "holds more than 67108864 bytes of KML" in fault(tmp_path / "b.kmz")
    with zipfile.ZipFile(tmp_path / "c.kmz", "w") as archive:
        archive.writestr("doc.kml", KML)
    (tmp_path / "c.kmz").write_bytes((tmp_path / "c.kmz").read_bytes().replace(b"universities", b"UNIVERSITIES"))
    assert "cannot be read" in fault(tmp_path / "c.kmz")
    with zipfile.ZipFile(tmp_path / "d.kmz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("doc.kml", KML * 50)
    data = bytearray((tmp_path / "d.kmz").read_bytes())
    data[60:90] = b"\xff" * 30
    (tmp_path / "d.kmz").write_bytes(data)
    assert "cannot be read" in fault(tmp_path / "d.kmz")


def test_an_encoding_that_nobody_knows_is_reported(tmp_path):
    path = write(tmp_path / "a.kml", KML.replace("UTF-8", "klingon-8"))
    with pytest.raises(DataError, match="is not valid KML"):
        read_coordinates(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("0001\n", "line 1 is '0001', not '<id> <name>'"), ("0001 a\n0001 b\n", "line 2: the id '0001' is there twice")],
)
def test_faults_of_the_name_list_are_reported(tmp_path, text, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_coordinates(write(tmp_path / "places.csv", "id,lat,lon\n1,2,3\n"), write(tmp_path / "names.txt", text))


def test_places_with_a_position_are_counted_and_none_is_a_fault():
    table = {"0001": ARENA, "0002": ARENA}
    assert count_covered(["0001", "0001", "0003"], table, "places.csv") == 1
    assert count_covered([], table, "places.csv") == 0
    with pytest.raises(
        DataError, match=r"^none of 2 places is in places.csv: it has '0001', the data '1'; use the same"
    ):
        count_covered(["1", "2"], table, "places.csv")


def test_joining_fills_only_what_is_missing_and_leaves_the_row_alone():
    row = {"place_id": "0001", "latitude_deg": None, "longitude_deg": None, "captions": ["x"]}
    assert join_coordinates(row, {"0001": ARENA}) == {**row, "latitude_deg": ARENA[0], "longitude_deg": ARENA[1]}
    assert row["latitude_deg"] is None
    own = {**row, "latitude_deg": 1.0, "longitude_deg": 2.0}
    assert join_coordinates(own, {"0001": ARENA}) == own
    for place_id in ("0002", None):
        assert join_coordinates({**row, "place_id": place_id}, {"0001": ARENA}) == {**row, "place_id": place_id}
