"""Word ids in, probabilities out. The names of a bundle's files stand here, so that it costs nothing to know them."""

SERVER_DIR = "serving_server_model"
CLIENT_DIR = "serving_client_conf"
CLIENT_CONF = "serving_client_conf.prototxt"
SERVER_CONF = "serving_server_conf.prototxt"
PUBLISHED_CONF = "inference.conf"
PROGRAM = "inference.json"
WEIGHTS = "inference.pdiparams"
ONNX = "inference.onnx"
VOCABULARY = "imdb.vocab"
CARD = "model_card.json"
TUNING = "tuning.json"
EXPORTED = (PROGRAM, WEIGHTS, ONNX)
"""What an exported net consists of."""
FILES = (*EXPORTED, VOCABULARY, SERVER_CONF)
"""What the model card holds checksums of."""
