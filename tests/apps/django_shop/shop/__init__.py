"""A small Django application that keeps everything it can in tiercache."""
