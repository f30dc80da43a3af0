from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="calledin",
    version="0.1.0",
    description="One GET request makes a phone ring and plays an MP3 to who answers.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # Without package_dir an editable install would not see the plugin folder.
    package_dir={"": "."},
    packages=[*find_packages(include=["calledind", "calledind.*"]), "twisted.plugins"],
    package_data={
        "calledind": [
            "py.typed",
            "simulator/*.mp3",
            "store/*.sql",
            "store/lua/*.lua",
            "page/static/*",
            "page/static/*/*",
            "help/*.md",
            "help/*.css",
        ]
    },
    entry_points={"console_scripts": ["calledin = calledind.cli.main:main"]},
    install_requires=[
        "twisted[tls,websocket]>=26.10",
        "treq>=26.7",
        "txredisapi>=1.6",
        "mutagen>=1.48",
        "pyopenssl>=26",
        "service-identity>=26",
        "cryptography>=46",
        "av>=18",
        "numpy>=2.2",
        "automat>=25.4.16",
        "phonenumbers>=9",
        "attrs>=25",
        "cattrs>=25",
        "click>=8.2",
        "rich>=14",
        "markdown-it-py>=3",
        "prometheus-client>=0.22",
    ],
    extras_require={
        "test": [
            "mypy>=2.4,<3",
            "mypy-zope>=1.0.17",
            "ruff>=0.17",
            "import-linter>=2.16",
            "hypothesis>=6.150",
            "coverage>=7.13",
        ],
    },
)
