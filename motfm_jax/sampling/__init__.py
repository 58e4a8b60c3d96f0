"""Generated images: noise and conditions in, images and folders of them out."""
