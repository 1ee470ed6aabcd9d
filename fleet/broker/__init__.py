"""A broker for one machine, as a process of its own: mosquitto if installed, else iotcore."""
