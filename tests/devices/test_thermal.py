"""Heat and clock rate, from a made-up /sys."""

from pathlib import Path

from netgraft.devices.far.thermal import REST_MAX_S, REST_STEP_S, Watch


def put(root: Path, name: str, text: object) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f"{text}\n")


def watch(root: Path, cools_c: float = 5.0) -> tuple[Watch, list[float]]:
    """It cools by so much in each step of a rest."""
    told: list[float] = []

    def sleep(seconds: float) -> None:
        assert seconds == REST_STEP_S
        sensor = root / "class/thermal/thermal_zone1/temp"
        sensor.write_text(str(float(sensor.read_text()) - 1e3 * cools_c))

    return Watch(on_rest=told.append, root=root, sleep=sleep), told


def test_a_hot_machine_rests_until_it_is_cool(tmp_path: Path) -> None:
    """From 81 in steps of 5: at 81, 76 and 71 it rests, at 66 no more."""
    put(tmp_path, "class/thermal/thermal_zone0/temp", 40_000)
    put(tmp_path, "class/thermal/thermal_zone1/temp", 81_000)
    seen, told = watch(tmp_path)
    seen.look()
    assert told == [81, 76, 71]
    assert seen.summary()["rested_s"] == 3 * REST_STEP_S
    assert seen.summary()["hottest_c"] == 81


def test_one_that_is_warm_does_not_rest(tmp_path: Path) -> None:
    put(tmp_path, "class/thermal/thermal_zone1/temp", 79_000)
    seen, told = watch(tmp_path)
    seen.look()
    assert told == []


def test_one_that_stays_hot_goes_on_in_the_end(tmp_path: Path) -> None:
    put(tmp_path, "class/thermal/thermal_zone1/temp", 95_000)
    seen, told = watch(tmp_path, cools_c=0)
    seen.look()
    assert len(told) == REST_MAX_S / REST_STEP_S


def test_broken_sensors_are_left_out(tmp_path: Path) -> None:
    for zone, text in enumerate((127_000, -274_000, "", "N/A")):
        put(tmp_path, f"class/thermal/thermal_zone{zone}/temp", text)
    (tmp_path / "class/thermal/thermal_zone9/temp").mkdir(parents=True)
    seen, told = watch(tmp_path)
    seen.look()
    assert told == []
    assert seen.summary()["hottest_c"] == 0


def test_slowing_down_is_noticed_and_a_fan_is_not(tmp_path: Path) -> None:
    put(tmp_path, "class/thermal/cooling_device0/type", "pwm-fan")
    put(tmp_path, "class/thermal/cooling_device0/cur_state", 3)
    put(tmp_path, "class/thermal/cooling_device1/type", "cpufreq-cpu0")
    put(tmp_path, "class/thermal/cooling_device1/cur_state", 0)
    seen, _ = watch(tmp_path)
    seen.look()
    assert not seen.summary()["throttled"]
    put(tmp_path, "class/thermal/cooling_device1/cur_state", 1)
    seen.look()
    put(tmp_path, "class/thermal/cooling_device1/cur_state", 0)
    seen.look()
    assert seen.summary()["throttled"]


def test_the_fastest_core_tells_the_clock(tmp_path: Path) -> None:
    for slow in (1_800_000, 1_200_000, 1_500_000):
        put(tmp_path, "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", slow)
        put(tmp_path, "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", 600_000)
        seen = locals().get("seen") or watch(tmp_path)[0]
        seen.look()
    assert (seen.summary()["slowest_mhz"], seen.summary()["fastest_mhz"]) == (1200, 1800)


def test_a_machine_that_tells_nothing_is_measured_all_the_same(tmp_path: Path) -> None:
    seen, _ = watch(tmp_path)
    seen.look()
    assert seen.summary() == {
        "hottest_c": 0,
        "rested_s": 0,
        "throttled": False,
        "slowest_mhz": 0,
        "fastest_mhz": 0,
    }
