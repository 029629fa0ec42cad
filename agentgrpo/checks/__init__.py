"""The checks of `envcheck`: each looks at one thing that makes an environment unfit to train on."""
