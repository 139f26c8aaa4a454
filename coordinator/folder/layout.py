"""The names of the files and folders in a federation's folder."""

BLOBS = "blobs"

MIXTURE = "mixture"

EVALUATION = "evaluation.json"

LOCK = "lock"

APP_LOG = "app.log"

APP_STATE = "app-state.bin"
