"""MS-COCO: its folders, and its annotation files read as a stream."""
