"""The names under which `prepare` writes and the engines read."""

SAVED_MODEL = "saved_model"
OPENVINO_MODEL = "openvino.xml"
INPUT = "pictures"
OUTPUT = "scores"
