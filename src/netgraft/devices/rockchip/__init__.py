"""Networks for Rockchip's NPUs."""
